"""What may cost money: what was used and charged, the record of it, and those who read that record."""
