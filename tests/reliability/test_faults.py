"""The list of faults fits the code: each can be put in, and the tests that should catch it are there."""

import pytest

from tests.reliability import faults


@pytest.mark.parametrize('fault', faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_put_in_and_its_tests_are_there(fault):
  assert faults.change(faults.ROOT, fault) != (faults.ROOT / fault.file).read_text(encoding='utf-8')
  assert fault.tests
  for test in fault.tests.split():
    file, _, function = test.partition('::')
    text = (faults.ROOT / file).read_text(encoding='utf-8')
    assert not function or f'\ndef {function.partition("[")[0]}(' in text, test


def test_every_fault_has_a_name_of_its_own():
  assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)
