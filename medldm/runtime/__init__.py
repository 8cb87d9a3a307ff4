"""The process: devices, memory allocation, and the other processes of one job."""
