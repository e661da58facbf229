"""The queues of D2SM (eq. 3)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2sm_scenes import CLEAN, RESTORED, expected, on_vectors, vectors, with_features


def test_d2sm_history_counts_as_samples_without_anchors():
    """The newest samples of a queue of 3 are the two before; only the current one is an anchor."""
    loss = on_vectors(queue_size=3)
    loss(RESTORED[1:], CLEAN[1:])
    assert loss.filled == 2
    assert float(loss(RESTORED[:1], CLEAN[:1])[0]) == pytest.approx(expected(anchors=[0]), rel=1e-4)
    assert loss.filled == 3


def test_d2sm_full_queue_forgets_the_oldest():
    """Eq. 3: [newest, ..., oldest], q samples."""
    loss = on_vectors(queue_size=4)
    for number in range(1, 4):
        loss(vectors((number, 1, 0), (number, 2, 0)), CLEAN[:2])
    rows = [(3, 1), (3, 2), (2, 1), (2, 2)]
    expected_rows = nn.functional.normalize(torch.tensor([(*row, 0.0) for row in rows]))
    torch.testing.assert_close(loss.restored_queue, expected_rows)


def test_d2sm_odd_batch_wraps_around():
    loss = on_vectors(queue_size=4)
    for number in range(1, 4):
        loss(vectors(*[(number, k, 1) for k in range(3)]), CLEAN)
    rows = [(3.0, 0, 1), (3, 1, 1), (3, 2, 1), (2, 0, 1)]
    torch.testing.assert_close(loss.restored_queue, nn.functional.normalize(torch.tensor(rows)))


def test_d2sm_batch_that_fills_the_queue_is_compared_whole():
    loss = on_vectors(queue_size=3)
    loss(RESTORED, CLEAN)
    assert float(loss(RESTORED, CLEAN)[0]) == pytest.approx(expected(), rel=1e-4)
    assert loss.filled == 3


def test_d2sm_batch_larger_than_the_queue_keeps_its_first_samples():
    loss = on_vectors(queue_size=3)
    loss(torch.cat([RESTORED, CLEAN]), torch.cat([CLEAN, RESTORED]))
    torch.testing.assert_close(loss.restored_queue, nn.functional.normalize(RESTORED.flatten(1)))


def test_d2sm_history_has_no_gradient():
    loss = with_features()
    first = torch.rand(2, 3, 48, 48, requires_grad=True)
    loss(first, torch.rand(2, 3, 48, 48))
    loss(torch.rand(2, 3, 48, 48, requires_grad=True), torch.rand(2, 3, 48, 48))[0].backward()
    assert first.grad is None


def test_d2sm_queues_are_restored_by_load_queues():
    first, second = on_vectors(), on_vectors()
    first(RESTORED, CLEAN)
    second.load_queues(first.queues())
    torch.testing.assert_close(second(CLEAN, RESTORED)[0], first(CLEAN, RESTORED)[0], rtol=0, atol=0)


def test_d2sm_crops_of_another_size_raise_value_error():
    loss = with_features()
    loss(torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48))
    with pytest.raises(ValueError, match='All crops of a training must have one size'):
        loss(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))


def test_d2sm_batch_that_is_not_finite_does_not_enter_the_queues():
    loss = on_vectors()
    loss(RESTORED, CLEAN)
    bad = RESTORED.clone()
    bad[0] = torch.nan
    assert not torch.isfinite(loss(bad, CLEAN)[0])
    assert loss.filled == 3 and torch.isfinite(loss(RESTORED, CLEAN)[0])


def test_d2sm_queues_of_other_options_are_refused():
    first = with_features(patch_size=24)
    first(torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48))
    with pytest.raises(ValueError, match='they are of another patch_size, 24'):
        with_features(patch_size=32).load_queues(first.queues())
