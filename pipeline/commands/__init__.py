"""What a command does beyond running stages."""
