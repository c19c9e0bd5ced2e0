"""Training configurations, one YAML file a task."""
