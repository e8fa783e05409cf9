"""Around ``learn()``: when files are written, whose a folder is, and how a training goes on."""
