"""Tests that kill the service's processes while it is being asked."""
