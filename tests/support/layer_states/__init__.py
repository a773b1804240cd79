"""Every layer class of both frameworks whose forward pass changes its state, as it is found."""
