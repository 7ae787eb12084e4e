"""The names and versions of what is written as JSON. Within one number keys are only ever added."""

STATUS_SCHEMA = "ollamux.status/1"
EVENT_SCHEMA = "ollamux.event/1"
DOCTOR_SCHEMA = "ollamux.doctor/1"
PLAN_SCHEMA = "ollamux.plan/1"
TUNE_SCHEMA = "ollamux.tune/1"
MODELS_SCHEMA = "ollamux.models/1"
BENCH_SCHEMA = "ollamux.bench/1"
