"""What runs only when a person asks: nothing of a user's process imports it."""
