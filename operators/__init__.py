"""What is decided: the flow language, the match index, the steps and the journey machine. Pure: no I/O, no clock."""
