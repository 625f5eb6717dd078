//! The CPU 3×3 convolution and pooling, forward and backward.
