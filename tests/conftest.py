"""What holds for every test: random inputs may take their time on a machine that is busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("clinvk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("clinvk")
