"""Image sets: reading and downloading them, augmentation and preprocessing."""
