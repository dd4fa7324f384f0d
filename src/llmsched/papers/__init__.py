"""Published papers, reproduced: one subpackage each, on the public simulation and theory."""
