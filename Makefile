# make mount      mount an embedded bucket at ./mnt (installs what is missing, once)
# make test       lint, types, import rules and all tests
# make test-long  the same with the long forms of the tests
# make clean      forget the virtual environment
#
# PYTHON=/path/to/python3 chooses the interpreter, TESTFLAGS="-k name" the tests, PIPFLAGS goes to pip.

PYTHON := $(or $(PYTHON),$(shell scripts/find-python))
TESTFLAGS ?=
PIPFLAGS ?=

# A stamp per state of what decides about installed packages, so that the second time costs nothing.  Taken again when
# all is installed: with the packages comes, now and then, a newer interpreter.
STATE := $(shell scripts/state "$(PYTHON)")
RUN := .venv/run-$(STATE)
TEST := .venv/test-$(STATE)
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet $(PIPFLAGS)
# Otherwise whoever mounts first compiles, and again each time where that user may not write here.
COMPILE := .venv/bin/python -m compileall -q b2fs || true

.PHONY: mount test test-long setup setup-test clean

mount: $(RUN)
	@exec scripts/mount-demo

test: $(TEST)
	@exec scripts/check $(TESTFLAGS)

test-long: $(TEST)
	@B2FS_LONG=1 exec scripts/check $(TESTFLAGS)

setup: $(RUN)
setup-test: $(TEST)

clean:
	rm -rf .venv build *.egg-info

$(RUN):
	@test -n "$(PYTHON)"
	@PYTHON="$(PYTHON)" scripts/packages run
	@scripts/make-venv "$(PYTHON)"
	@echo "Installing b2fs into .venv"
	@$(PIP) --editable .
	@$(COMPILE)
	@rm -f .venv/run-*
	@touch ".venv/run-$$(scripts/state "$(PYTHON)")"

$(TEST):
	@test -n "$(PYTHON)"
	@PYTHON="$(PYTHON)" scripts/packages test
	@scripts/make-venv "$(PYTHON)"
	@echo "Installing b2fs and its test tools into .venv"
	@$(PIP) --editable '.[test]'
	@$(COMPILE)
	@rm -f .venv/run-* .venv/test-*
	@state=$$(scripts/state "$(PYTHON)"); touch ".venv/run-$$state" ".venv/test-$$state"
