"""Is it true: what is proven, what it is compared with, and the stages of the proof."""
