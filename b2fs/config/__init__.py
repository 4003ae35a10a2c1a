"""Text to configuration: URLs, options, environment."""
