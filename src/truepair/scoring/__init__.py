"""Does a pair match? Encodings, log-odds, neighbour agreement, noise rate, confidence, mixtures."""
