"""What every room uses and no chapter shows: files, pictures, the hub, argument checks, logs."""
