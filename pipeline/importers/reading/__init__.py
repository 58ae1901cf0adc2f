"""Reading files of other origin: what holds rows, what rows hold, and whose shape they have."""
