"""Steerable maths on tensors."""
