"""Chart-based DensePose R-CNN, from annotations to GPS AP; spec/densepose.md has the rules."""
