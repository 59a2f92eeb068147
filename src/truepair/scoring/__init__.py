"""Does a pair match? Encodings, log-odds against negatives, neighbour agreement, mixtures, noise rate, confidence."""
