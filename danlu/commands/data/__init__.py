"""What `danlu data` does: inspect, build, mix, scan."""
