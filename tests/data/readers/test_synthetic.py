"""The embedded data set: what it promises its readers, and that its bodies move like bodies."""

from __future__ import annotations

import numpy as np
import pytest

from crrl.data.clips import Clips
from crrl.data.readers import synthetic

_FEET = [14, 15, 18, 19]


@pytest.fixture(scope="module")
def clips() -> Clips:
    return synthetic.generate(0)


def perform(action: str, subject: int = 1, repetition: int = 1, seed: int = 0) -> synthetic.Array:
    """One noise-free performance, [T, 25, 3] in the room's frame."""
    person = synthetic._subject(seed, subject)
    stream = synthetic._stream(seed, action, subject, repetition)
    return synthetic._performance(person, synthetic._ACTIONS[action], stream)


def bones(joints: synthetic.Array) -> synthetic.Array:
    """Bone lengths, [T, 24] in metres."""
    child = np.arange(1, 25)
    return np.asarray(np.linalg.norm(joints[:, child] - joints[:, np.array(synthetic._PARENTS)[child]], axis=-1))


def test_counts_and_facts(clips: Clips) -> None:
    assert len(clips) == 14 * 12 * 2 * 3
    assert clips.frames.dtype == np.float32
    assert clips.frames.shape[1:] == (25, 3)
    assert np.isfinite(clips.frames).all()
    assert set(clips.subjects) == set(range(1, 13))
    assert set(clips.views) == {1, 2, 3}
    assert set(clips.setups) == {-1}
    assert (np.bincount(clips.labels) == 12 * 2 * 3).all()
    assert len(clips.class_names) == 14
    assert len(set(clips.names)) == len(clips)


def test_names_say_what_the_arrays_say(clips: Clips) -> None:
    for index in (0, 100, 1007):
        action = clips.class_names[clips.labels[index]]
        start, end = f"{action}_s{clips.subjects[index]:02}_r", f"_c{clips.views[index]}"
        assert clips.names[index].startswith(start)
        assert clips.names[index].endswith(end)
    assert "walk_s01_r1_c2" in clips.names


def test_lengths_are_ragged(clips: Clips) -> None:
    assert clips.lengths.min() >= 20
    assert clips.lengths.max() <= 100
    assert clips.lengths.max() > 60
    assert len(np.unique(clips.lengths)) > 30


def test_no_joint_reads_as_absent(clips: Clips) -> None:
    assert (np.abs(clips.frames).max(-1) > 0).all()


def test_same_seed_same_clips(clips: Clips) -> None:
    again = synthetic.generate(0)
    np.testing.assert_array_equal(again.frames, clips.frames)
    np.testing.assert_array_equal(again.offsets, clips.offsets)
    assert again.names == clips.names


def test_another_seed_gives_other_people_and_performances() -> None:
    assert not np.allclose(synthetic._subject(0, 1).bones, synthetic._subject(1, 1).bones)
    ours, theirs = perform("walk"), perform("walk", seed=1)
    assert ours.shape != theirs.shape or not np.allclose(ours, theirs)


def test_actions_do_not_depend_on_each_other(clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_ACTIONS", {"clap": synthetic._ACTIONS["clap"]})
    alone = synthetic.generate(0)
    for name in ("clap_s01_r1_c1", "clap_s12_r2_c3"):
        np.testing.assert_array_equal(alone.clip(alone.names.index(name)), clips.clip(clips.names.index(name)))


@pytest.mark.parametrize("action", synthetic._ACTIONS)
def test_bones_keep_their_length(action: str) -> None:
    lengths = bones(perform(action))
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-9)


def test_a_subject_keeps_its_body_and_differs_from_others() -> None:
    np.testing.assert_allclose(bones(perform("walk"))[0], bones(perform("kick", repetition=2))[0])
    assert np.abs(bones(perform("walk", 1))[0] - bones(perform("walk", 2))[0]).max() > 0.01


def test_cameras_see_one_performance_up_to_a_rigid_transform() -> None:
    body = perform("kick")
    views = [synthetic._see(body, synthetic._CAMERAS[view]).reshape(-1, 3) for view in (1, 2, 3)]
    first = views[0] - views[0].mean(0)
    for other in views[1:]:
        other = other - other.mean(0)
        u, _, v = np.linalg.svd(first.T @ other)
        assert np.linalg.det(u @ v) == pytest.approx(1)
        np.testing.assert_allclose(first @ (u @ v), other, atol=1e-9)
        assert np.abs(first - other).max() > 0.1


def test_a_body_is_upright_and_faces_the_front_camera() -> None:
    for camera in synthetic._CAMERAS.values():
        seen = synthetic._see(perform("wave"), camera)
        assert (seen[:, 3, 1] > seen[:, 0, 1]).all()
        assert (seen[..., 2] > 1.5).all()
    seen = synthetic._see(perform("wave"), synthetic._CAMERAS[1])
    assert (seen[:, 4, 0] < seen[:, 8, 0]).all()  # x grows to the camera's left, where the body's right is
    assert (seen[:, [15, 19], 2].mean(1) < seen[:, [14, 18], 2].mean(1)).all()  # toes point at the camera


@pytest.mark.parametrize("view", [1, 2, 3])
def test_noise_is_small(clips: Clips, view: int) -> None:
    clean = synthetic._see(perform("put_on_jacket", 3), synthetic._CAMERAS[view])
    noisy = clips.clip(clips.names.index(f"put_on_jacket_s03_r1_c{view}"))
    error = np.linalg.norm(noisy - clean, axis=-1)
    assert 0.004 < np.median(error) < 0.06


def test_noise_is_worse_where_the_torso_hides_a_joint() -> None:
    body = perform("raise_hand")[:1]
    body[:, 6] = body[:, 1] - (0, 0, 0.2)  # the left wrist behind the back
    body[:, 10] = body[:, 1] + (0, 0, 0.2)  # the right wrist before the chest
    still = np.repeat(synthetic._see(body, synthetic._CAMERAS[1]), 400, 0)
    error = np.linalg.norm(synthetic._sense(still, 1.0, np.random.default_rng(0)) - still, axis=-1)
    assert np.median(error[:, 6]) > 2 * np.median(error[:, 10])


@pytest.mark.parametrize("subject", [1, 5, 9])
def test_sitting_down_lowers_the_hips_and_standing_up_raises_them(subject: int) -> None:
    down, up = perform("sit_down", subject)[:, 0, 1], perform("stand_up", subject)[:, 0, 1]
    assert down[0] - down[-1] > 0.15
    assert up[-1] - up[0] > 0.15
    assert down[0] == pytest.approx(up[-1], abs=0.08)
    assert down[-1] == pytest.approx(up[0], abs=0.2)


@pytest.mark.parametrize(("action", "reverse"), [("sit_down", "stand_up"), ("put_on_jacket", "take_off_jacket")])
def test_reversal_pairs_are_one_motion_backwards(action: str, reverse: str) -> None:
    progress = np.linspace(0, 1, 50)
    there = synthetic._pose_rows(synthetic._ACTIONS[action].motion(progress), 50)
    back = synthetic._pose_rows(synthetic._ACTIONS[reverse].motion(progress), 50)
    np.testing.assert_allclose(there, back[::-1], atol=1e-9)
    assert np.abs(there - back).max() > 10


def steps_per_second(joints: synthetic.Array) -> float:
    """The strongest frequency at which the feet pass each other."""
    apart = joints[:, 14, 2] - joints[:, 18, 2]
    spectrum = np.abs(np.fft.rfft(apart - apart.mean(), 1024))
    return float(np.fft.rfftfreq(1024, 1 / 30)[spectrum.argmax()])


def test_a_jog_is_quicker_than_a_walk() -> None:
    for subject in range(1, 13):
        walk, jog = steps_per_second(perform("walk", subject)), steps_per_second(perform("jog", subject))
        assert 0.4 < walk < jog < 3


def test_a_wave_moves_the_hand_that_raise_hand_holds() -> None:
    for subject in (1, 6, 11):
        speed = {}
        for action in ("wave", "raise_hand"):
            joints = perform(action, subject)
            hand = 7 if joints[:, 7, 1].max() > joints[:, 11, 1].max() else 11
            raised = joints[joints[:, hand, 1] > joints[:, 20, 1], hand]
            assert len(raised) > 10
            speed[action] = np.median(np.linalg.norm(np.diff(raised, axis=0), axis=-1))
        assert speed["wave"] > 2 * speed["raise_hand"]


def test_picking_up_with_one_hand_leaves_the_other_higher() -> None:
    uneven = {}
    for action in ("pick_up_one_hand", "pick_up_two_hands"):
        lowest = [perform(action, subject)[:, [7, 11], 1].min(0) for subject in range(1, 13)]
        uneven[action] = np.ptp(lowest, axis=1).mean()
    assert uneven["pick_up_one_hand"] > 1.5 * uneven["pick_up_two_hands"]


@pytest.mark.parametrize("action", synthetic._ACTIONS)
def test_a_foot_is_near_the_floor(action: str) -> None:
    height = perform(action, 4)[:, _FEET, 1].min(1)
    assert height.min() == pytest.approx(0, abs=0.02)
    assert height.max() < 0.1


def test_left_handers_mirror_right_handers() -> None:
    pose = synthetic._pose_rows({"r_arm": 60, "turn": 10, "l_knee": 20, "r_hip_out": 8, "lean": 5}, 1)
    body = synthetic._subject(0, 1).bones
    mirrored = synthetic._body(body, pose @ synthetic._MIRROR)
    swap = np.arange(25)
    for left, right in synthetic._LEFT_TO_RIGHT.items():
        swap[[left, right]] = right, left
    np.testing.assert_allclose(mirrored, synthetic._body(body, pose)[:, swap] * (-1, 1, 1), atol=1e-9)


def test_splits_cover_and_do_not_overlap(clips: Clips) -> None:
    folds = [f"validation-{number}" for number in range(1, 5)]
    assert list(clips.splits) == ["cross-subject", "cross-view", "validation", *folds]
    for name, facts in (("cross-subject", clips.subjects), ("cross-view", clips.views)):
        split = clips.split(name)
        assert not set(facts[split.train]) & set(facts[split.test["all"]])
        assert sorted([*split.train, *split.test["all"]]) == list(range(len(clips)))
    assert set(clips.subjects[clips.split("cross-subject").train]) == set(range(1, 9))
    assert set(clips.views[clips.split("cross-view").train]) == {2, 3}


def test_validation_lies_within_the_training_half(clips: Clips) -> None:
    split, outer = clips.split("validation"), clips.split("cross-subject").train
    assert sorted([*split.train, *split.test["all"]]) == sorted(outer)
    assert set(clips.subjects[split.train]) == set(range(1, 7))
    assert set(clips.subjects[split.test["all"]]) == {7, 8}


def test_folds_are_of_two_subjects_of_the_training_half_each(clips: Clips) -> None:
    outer, held_out = clips.split("cross-subject").train, []
    for number in range(1, 5):
        split = clips.split(f"validation-{number}")
        assert sorted([*split.train, *split.test["all"]]) == sorted(outer)
        held_out.append(set(clips.subjects[split.test["all"]]))
        assert not held_out[-1] & set(clips.subjects[split.train])
    assert list(map(len, held_out)) == [2, 2, 2, 2]
    assert set.union(*held_out) == set(range(1, 9))
