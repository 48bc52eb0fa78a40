# The newcomer needs two of these: `make demo` and `make test`. Every target sets up what it needs.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help
export PATH := $(PATH):/usr/sbin:/sbin

help: ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/ready: requirements.lock pyproject.toml scripts/venv.sh
	@scripts/venv.sh

venv: .venv/ready ## the Python environment, from requirements.lock

lab-parts: .venv/ready ## routers, kernel tools and the control plane (built once, then cached)
	@scripts/lab-parts.sh

check: .venv/ready ## lint, types, import contracts, unit and property tests (under 2 minutes)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/lint-imports
	$(PY) -m pytest -q -n 2 tests/unit tests/property tests/contract tests/tidy

simulation: .venv/ready ## the real manager under seeded faults, and planted bugs that must be seen
	PYTHONHASHSEED=0 $(PY) -m pytest -q tests/simulation

chart-parts: .venv/ready ## helm (built once, then cached) and Debian's Prometheus
	@scripts/chart-parts.sh

chart: chart-parts ## the Helm chart and its alerts: lint, rendering, rules that fire and rules that do not
	$(PY) -m pytest -q tests/chart

fuzz: .venv/ready ## ten thousand cases each of what routers and users may send
	$(PY) -m pytest -q -n 2 tests/fuzz

test: check fuzz simulation chart lab-parts ## everything, on real parts
	$(PY) -m pytest -q tests/integration tests/e2e

demo: lab-parts ## the product at work on a real API server, real routers and real traffic
	$(PY) -m tests.lab demo

lab: lab-parts ## the demo's cluster, left up, with a KUBECONFIG and hints
	$(PY) -m tests.lab up

lab-down: .venv/ready ## remove the lab
	$(PY) -m tests.lab down

real-parts: lab-parts chart-parts ## what real nodes need: containerd (built once, then cached), CNI plugins, the image
	@scripts/real-parts.sh

e2e: real-parts ## chart and image on real nodes: install, upgrade, drain, power off under traffic, alerts, uninstall
	$(PY) -m pytest -q tests/real

drill: lab-parts ## failover drills under traffic; writes build/drills.json and build/drills.html
	$(PY) -m tests.lab drill all

bench: lab-parts ## speed and cost against the limit of this machine; writes docs/performance.md and build/bench*
	$(PY) -m loadtest.bench --write

loadtest: lab-parts ## Service churn under locust for 5 minutes, with a leader killed in the middle; writes build/loadtest.*
	$(PY) -m loadtest.churn

crds: .venv/ready ## write helm/porter-ha/crds and the policies' templates from porter_ha/model
	.venv/bin/porter-ha crds --output helm/porter-ha/crds
	scripts/policy-templates.sh

manifest: chart-parts ## write deploy/porter-ha.yaml from the chart
	scripts/manifest.sh

reasons: .venv/ready ## write docs/reasons.md and docs/metrics.md from the code
	.venv/bin/porter-ha reasons > docs/reasons.md
	.venv/bin/porter-ha metrics > docs/metrics.md

lock: ## renew requirements.lock from pyproject.toml
	scripts/lock.sh

.PHONY: help venv lab-parts check fuzz simulation chart-parts chart real-parts e2e test demo lab lab-down drill bench loadtest crds manifest reasons lock
