"""Pure functions of similarity matrices."""
