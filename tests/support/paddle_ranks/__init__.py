"""What the tests let several Paddle processes do together; each function runs in every process."""
