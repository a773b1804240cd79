"""Arrays alone: sketches of tensors, what a model returns, what is measured. No model, no plan."""
