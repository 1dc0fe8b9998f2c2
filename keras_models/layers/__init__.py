"""The building blocks of the towers."""
