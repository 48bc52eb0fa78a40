"""What all tests share: seeds that are printed, and no test that could hang for ever."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "porter", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, max_examples=200
)
settings.load_profile("porter")
