"""What a model is: its folder or Hub id, its chat template, how it is loaded and how it is trained."""
