# `make` lists the targets. The Debian packages that targets need are in packages.apt, the Python
# packages in pyproject.toml. Missing packages are installed if root runs make, and reported
# otherwise.

# Directory of the virtual environment in which this tree's usernsctl is installed.
DEV = $$(tools/environment dev)
PYTHON_CODE = src tests tools demo bench examples csrc docs/conf.py setup.py docker/sbom.py
SHELL_CODE = tools/packages tools/environment tools/user tools/as-user tools/test-as tools/pytest-as tools/to-the-end \
	tools/default-signals tools/deb tools/release-check \
	demo/run .ci/run \
	docker/install docker/install-runsc tools/source-copy tools/in-system tools/deb-installed \
	$(filter-out %/control,$(wildcard debian/tests/*)) \
	tools/dist/try-install tools/dist/use-installed tools/vm/image tools/vm/run tools/vm/guest
# Pattern of docstrings that begin with a pronoun or a clause. ruff's rule D401 (imperative mood)
# allows them for classes and properties.
BAD_DOCSTRING = ^ *"""(It|Of|One|So many|Those|What|Whether|Who|Whoever|Whose)\b
C_CODE = $(shell find csrc tests/c -name "*.[ch]")

.DEFAULT_GOAL := help
.PHONY: help demo test test-all unit kernel runsc hostile faults fuzz load as-ranges as-root as-no-ranges demo-in-gvisor \
	clients docker ray vm c analyze sanitize coverage connector docs man dist deb release-check lint format bench counts \
	packages clean

help: ## list the targets
	@sed -n 's/^\([a-z -]*\):.*## /    make \1\t/p' Makefile | expand -t 28

demo: packages ## run an Airbyte connector in gVisor, as an unprivileged user
	@demo/run

# $(BESIDE) makes targets in parallel, and continues if a target fails. Each target in $(AS_USERS)
# runs the tests in $(TESTS) as one kind of user (tools/test-as).
BESIDE = $(MAKE) --jobs=$$(($$(nproc) + 1)) --keep-going --output-sync --no-print-directory
AS_USERS = as-ranges $(if $(filter 0,$(shell id -u)),as-root as-no-ranges)
TESTS = tests
# tests/docker takes long, but mostly waits, so it runs in parallel with other tests.
DOCKER = $(findstring docker,$(USERNSCTL_MUST_WORK))

test: packages ## run every check, and every test as the users whom it concerns; ONLY=PATTERN: only matching tests
	@$(BESIDE) as-ranges $(DOCKER) c $(if $(ONLY),,lint) $(AS_USERS) demo-in-gvisor

test-all: packages ## run every check, and every test as every kind of user
	@USERNSCTL_TEST_ALL=1 USERNSCTL_PAIRS=$${USERNSCTL_PAIRS-200} USERNSCTL_PAIRS_SEED=$${USERNSCTL_PAIRS_SEED-$$(date +%Y%m%d)} \
		$(MAKE) --no-print-directory test

unit kernel runsc: packages ## run the tests in tests/unit, tests/kernel or tests/runsc; RUNSC=FILE takes another runsc
	@USERNSCTL_TEST_RUNSC='$(RUNSC)' $(BESIDE) TESTS=tests/$@ $(AS_USERS)

hostile: packages ## attack with the full number of tries; `make test` tries each attack a few times
	@USERNSCTL_HOSTILE=full $(BESIDE) TESTS="tests -o timeout=3600" ONLY=hostile $(AS_USERS)

faults: packages ## inject faults into system calls of tests/c and of each code path, and count (as root); ROUNDS=N: N (100) faults a path, 0: all
	@$(DEV)/bin/python -B tools/c_faults.py
	@$(DEV)/bin/python -B tools/faults.py --rounds $(or $(ROUNDS),100) --seed $$(date +%Y%m%d)
	@$(DEV)/bin/python tools/reliability_docs.py

load: packages ## run operations many times and concurrently, and check that nothing leaks; LOAD="--spawns N": see tools/load.py
	@set -e; python=$(DEV)/bin/python; name=$$(id -un); \
	if [ "$$name" = root ]; then name=usernsctl-test; tools/user $$name ranges; fi; \
	tools/as-user $$name tools/load.py -- $$python -W ignore tools/load.py $(LOAD)

as-ranges as-root as-no-ranges: packages
	@tools/test-as $(@:as-%=%) $(TESTS)

# Only tests/runsc/test_connector.py needs the connector, whose installation takes long. A separate
# target runs that file, so that all other tests can start earlier.
demo-in-gvisor: connector
	@set -e; USERNSCTL_CONNECTOR=$$(tools/environment connector); export USERNSCTL_CONNECTOR; \
	for kind in $(if $(USERNSCTL_TEST_ALL),$(AS_USERS:as-%=%),ranges); do \
		tools/test-as $$kind tests/runsc/test_connector.py -n 0; \
	done

clients: connector ## run tests/clients: unchanged programs from PyPI with usernsctl
	@tools/packages tests/clients/packages.apt
	@set -e; python=$$(tools/environment clients)/bin/python; name=$$(id -un); \
	USERNSCTL_CONNECTOR=$$(tools/environment connector); export USERNSCTL_CONNECTOR; \
	USERNSCTL_PYAIRBYTE=$$(tools/environment pyairbyte) || echo "PyAirbyte is not tested." >&2; \
	export USERNSCTL_PYAIRBYTE; \
	if [ "$$name" = root ]; then name=usernsctl-test; tools/user $$name ranges; fi; \
	tools/pytest-as $$name -- $$python -o 'pythonpath=demo tests/kernel examples/clients' \
		tests/clients $(if $(ONLY),-k '$(ONLY)')

docker: packages ## build the images and run tests/docker, with private Docker daemons (as root)
	@tools/packages docker/packages.apt
	@USERNSCTL_MUST_WORK=docker tools/to-the-end $(DEV)/bin/python -B -m pytest -p no:cacheprovider tests/docker \
		$(if $(USERNSCTL_TEST_ALL),,-m 'not thorough') $(if $(ONLY),-k '$(ONLY)' || [ $$? = 5 ])

ray: packages ## run tests/on_ray: clusters of Ray on this machine, with nodes that are killed
	@set -e; python=$$(tools/environment ray)/bin/python; name=$$(id -un); \
	if [ "$$name" = root ]; then name=usernsctl-test; tools/user $$name ranges; fi; \
	tools/pytest-as $$name -- $$python tests/on_ray $(if $(ONLY),-k '$(ONLY)' || [ $$? = 5 ])

vm: deb ## boot Debian, with AppArmor, Yama and systemd, in an emulated machine, and run tests there (as root)
	@tools/packages tools/vm/packages.apt
	@tools/vm/run

# The C tests need no virtual environment, so they are built while `make test` downloads the
# environment's packages.
c: packages ## check the layers of csrc/ and the warnings of clang, build it with gcc, sanitized, and run tests/c
	@$(if $(ONLY),,$${PYTHON:-python3} tools/c_layers.py)
	@$${PYTHON:-python3} tools/c_tests.py

fuzz: packages ## fuzz each parser, SECONDS=N (60) seconds each, and count
	@$(DEV)/bin/python -B tools/fuzz.py $(or $(SECONDS),60)
	@$(DEV)/bin/python tools/reliability_docs.py

analyze: packages ## analyze the C code (clang-tidy, gcc -fanalyzer) and the workflows (zizmor); fail on any finding
	@tools/packages tools/analyze.apt
	@set -e; bin=$$(tools/environment analyze)/bin; \
	"$$bin/zizmor" --offline --no-progress --quiet .github; \
	"$$bin/python" -B tools/analyze.py "$$bin/clang-tidy"

# Run the tests with ASan, then with TSan, since a program can't use both. Tests that fail with ASan
# must not prevent the run with TSan. The PID namespace is for orphans, which the PID 1 of some hosts
# reaps too late for a test. TSan adds a thread to each forked child, in which the pytest plugin then
# can't create a user namespace; and TSan reports data races of import-linter.
sanitize: packages ## run tests/unit and tests/kernel with sanitizers in the extension: ASan and UBSan, then TSan
	@set -e; name=$$(id -un); apart=; \
	if [ "$$name" = root ]; then \
		name=usernsctl-test; tools/user $$name ranges; \
		apart="unshare --pid --fork --kill-child --mount-proc"; \
	fi; \
	failed=; \
	for kind in asan tsan; do \
		ignored=; \
		[ $$kind = asan ] || ignored="--ignore=tests/unit/pytest_plugin --ignore=tests/unit/test_layers.py"; \
		python=$$(tools/environment $$kind)/bin/python; \
		$$apart tools/pytest-as $$name -- $$python tests/unit tests/kernel $$ignored \
			-m 'not as_root and not thorough and not unsanitized' \
			-o timeout=600 -n $$(nproc) $(if $(ONLY),-k '$(ONLY)') || failed="$$failed $$kind"; \
	done; \
	[ -z "$$failed" ]

coverage: packages ## count the lines of csrc/ that tests execute, for each file
	@tools/packages tools/coverage.apt
	@$(DEV)/bin/python -B tools/coverage.py "$$(tools/environment counted)"
	@$(DEV)/bin/python tools/reliability_docs.py

connector: packages
	@tools/environment connector >/dev/null

# Sphinx builds the site from docs/ and the installed package. After the first build, Sphinx reads
# only files that have changed.
docs: packages ## make the site, build/docs/index.html
	@$(DEV)/bin/sphinx-build --fail-on-warning --quiet -d build/doctrees docs build/docs

dist: packages ## build the sdist and the wheels into dist/, twice, check them and install them in empty systems
	@tools/packages tools/dist/packages.apt
	@set -e; python=$$(tools/environment dist)/bin/python; \
	$$python -B tools/dist/wheels.py; \
	$$python -B tools/dist/check.py; \
	$$python -B tools/c_tests.py aarch64 musl; \
	tools/dist/try-install

man: packages ## make the manual pages, build/man
	@$(DEV)/bin/sphinx-build --fail-on-warning --quiet -b man -d build/doctrees docs build/man

lint: docs ## check style, spelling, types, links and manual pages
	@set -e; bin=$(DEV)/bin; \
	$(MAKE) --no-print-directory man; \
	mandoc -T lint build/man/*.[15]; \
	"$$bin/ruff" check $(PYTHON_CODE); \
	"$$bin/ruff" format --check $(PYTHON_CODE); \
	if grep -rnE --include='*.py' '$(BAD_DOCSTRING)' $(PYTHON_CODE); then \
		echo 'Begin these docstrings with a verb or a noun.' >&2; exit 1; fi; \
	"$$bin/flake8" src; \
	"$$bin/codespell"; \
	"$$bin/mypy" --python-executable "$$bin/python"; \
	types=$$(PATH=$$bin:$$PATH "$$bin/basedpyright" --verifytypes usernsctl --ignoreexternal) || \
		{ echo "$$types" | grep -A2 error:; exit 1; }; \
	PYTHONPATH=src "$$bin/lint-imports" --no-cache --no-logo; \
	"$$bin/shellcheck" $(SHELL_CODE); \
	"$$bin/python" tools/seccomp_profile.py --check; \
	"$$bin/python" tools/plots.py --check; \
	"$$bin/python" tools/environment_docs.py --check; \
	"$$bin/python" tools/reliability_docs.py --check; \
	"$$bin/python" tools/doc_links.py; \
	"$$bin/clang-format" --dry-run --Werror $(C_CODE)

format: packages ## format the code in the style that lint checks
	@set -e; bin=$(DEV)/bin; \
	"$$bin/ruff" check --fix $(PYTHON_CODE); \
	"$$bin/ruff" format $(PYTHON_CODE); \
	"$$bin/clang-format" -i $(C_CODE)

deb: man ## make Debian packages, build/debian/*.deb
	@tools/deb

release-check: packages ## build all release files, build/release, in a clone of the last commit, and check them (as root)
	@tools/release-check $(DEV)/bin/python

bench: packages ## measure usernsctl against its peers
	@set -e; python=$(DEV)/bin/python; name=$$(id -un); \
	if [ "$$name" = root ]; then name=usernsctl-test; tools/user $$name ranges; fi; \
	USERNSCTL_CONNECTOR=$$(tools/environment connector); export USERNSCTL_CONNECTOR; \
	tools/as-user $$name bench demo -- $$python bench/aims.py; \
	tools/as-user $$name bench -- $$python bench/run.py; \
	tools/as-user $$name bench -- $$python bench/start.py; \
	tools/as-user $$name bench -- $$python bench/sandboxes.py; \
	tools/as-user $$name bench demo -- $$python bench/connector.py; \
	tools/as-user $$name bench demo -- $$python bench/templates.py; \
	tools/as-user $$name bench -- $$(tools/environment ray)/bin/python bench/on_ray.py; \
	case ",$$USERNSCTL_MUST_WORK," in *,docker,*) $$python bench/docker.py ;; esac

counts: packages ## update the counts that `make test` compares, after a change of the cost of starting a command
	@set -e; python=$(DEV)/bin/python; file=bench/counts.json; name=$$(id -un); \
	if [ "$$name" = root ]; then \
		name=usernsctl-test; tools/user $$name ranges; \
		tools/as-user root tests -- $$python tests/counting.py <$$file >$$file.new; \
		mv $$file.new $$file; \
	fi; \
	tools/as-user $$name tests -- $$python tests/counting.py <$$file >$$file.new; \
	mv $$file.new $$file

packages:
	@tools/packages

clean: ## remove what was built here
	@tools/environment remove
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis docs/manual/verbs docs/project src/*.egg-info
