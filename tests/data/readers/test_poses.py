"""People followed over frames, joints filled in, two bodies: on frames made by hand, of four joints."""

from __future__ import annotations

import time

import numpy as np
import pytest

from crrl.data.readers import poses
from crrl.data.readers.poses import LONGEST_GAP, Frame

SHAPE = np.array([[0.0, 0, 0], [0, 10, 0], [5, 10, 0], [-5, 10, 0]])
"""A body, 10 by 10."""


def person(x: float, y: float = 100.0, score: float = 0.9) -> np.ndarray:
    """[4, 4]: the body at x, y."""
    return np.column_stack([SHAPE + np.array([x, y, 0]), np.full(4, score)])


def frame(*people: np.ndarray) -> Frame:
    return Frame(np.array(people).reshape(-1, 4, 4))


def upright(points: np.ndarray) -> np.ndarray:
    """[..., 4] as a clip has it: y up, without score."""
    return (points[..., :3] * (1, -1, 1)).astype(np.float32)


def test_y_points_up_and_the_score_is_no_coordinate() -> None:
    clip = poses.clip_of([frame(person(100)), frame(person(101))])
    np.testing.assert_array_equal(clip, upright(np.stack([person(100), person(101)])))
    assert not np.signbit(clip[..., 2]).any()


def test_z_turns_with_y_so_that_left_stays_left() -> None:
    points = person(100)
    points[:, 2] = [1, 2, 3, 4]
    turned = poses.clip_of([frame(points)])[0]
    rotation = np.diag([1.0, -1, -1])
    np.testing.assert_allclose(turned, points[:, :3] @ rotation.T)
    assert np.linalg.det(rotation) == 1


def test_a_joint_below_the_score_is_never_read() -> None:
    frames = [frame(person(100 + t)) for t in range(5)]
    for t in (1, 2, 3):
        frames[t].points[0, 2] = (9e9, -9e9, 9e9, poses.LOWEST_SCORE - 1e-9)
    clip = poses.clip_of(frames)
    np.testing.assert_allclose(clip[:, 2, 0], 105 + np.arange(5))
    np.testing.assert_allclose(clip[:, 2, 1], -110)


def test_a_joint_of_the_lowest_score_is_read() -> None:
    assert poses.clip_of([frame(person(100, score=poses.LOWEST_SCORE))])[0].any(axis=1).all()


def test_a_joint_at_the_origin_is_missing_whatever_its_score() -> None:
    frames = [frame(person(100 + t)) for t in range(3)]
    frames[1].points[0, 0] = (0, 0, 0, 1)
    np.testing.assert_allclose(poses.clip_of(frames)[1, 0], (101, -100, 0))


@pytest.mark.parametrize(("gap", "filled"), [(1, True), (LONGEST_GAP, True), (LONGEST_GAP + 1, False)])
def test_a_gap_is_filled_by_a_straight_line_up_to_the_longest(gap: int, filled: bool) -> None:
    frames = [frame(person(100 + t)) for t in range(gap + 4)]
    for t in range(2, 2 + gap):
        frames[t].points[0, 3, 3] = 0
    clip = poses.clip_of(frames)
    expected = 95.0 + np.arange(gap + 4)
    if not filled:
        expected[2 : 2 + gap] = 0
    np.testing.assert_allclose(clip[:, 3, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(clip[:, 0, 0], 100.0 + np.arange(gap + 4), rtol=1e-6)


def test_a_gap_that_never_closes_stays_absent() -> None:
    frames = [frame(person(100 + t)) for t in range(6)]
    for t in (0, 1, 5):
        frames[t].points[0, 1, 3] = 0
    present = poses.clip_of(frames)[:, 1].any(axis=1)
    assert present.tolist() == [False, False, True, True, True, False]


def test_a_joint_never_seen_is_absent() -> None:
    frames = [frame(person(100 + t)) for t in range(4)]
    for each in frames:
        each.points[0, 2, 3] = 0.1
    clip = poses.clip_of(frames)
    assert not clip[:, 2].any()
    assert clip[:, [0, 1, 3]].any(axis=2).all()


def test_a_person_lost_for_a_while_is_filled_in() -> None:
    frames = [frame(person(100 + t)) if not 3 <= t < 6 else frame() for t in range(10)]
    np.testing.assert_allclose(poses.clip_of(frames)[:, 0, 0], 100.0 + np.arange(10), rtol=1e-6)


def test_a_person_lost_for_long_takes_the_same_place_and_nothing_is_made_up_between() -> None:
    lost = range(5, 7 + LONGEST_GAP)
    frames = [frame() if t in lost else frame(person(100 + t)) for t in range(50)]
    clip = poses.clip_of(frames)
    assert clip.shape == (50, 4, 3)
    assert [t for t in range(50) if not clip[t].any()] == list(lost)


def test_frames_before_the_first_person_stay_and_those_after_the_last_go() -> None:
    clip = poses.clip_of([frame(), frame(person(1)), frame(person(2)), frame(), frame()])
    assert clip.any(axis=(1, 2)).tolist() == [False, True, True]


def test_two_people_keep_their_places_though_their_order_in_the_file_changes() -> None:
    frames = []
    for t in range(20):
        people = [person(100 + t), person(300 - t, y=50)]
        frames.append(frame(*(people if t % 3 else people[::-1])))
    clip = poses.clip_of(frames).reshape(20, 2, 4, 3)
    tops = clip[:, :, 0, 0]
    assert sorted(tops[0]) == [100, 300]
    assert (np.abs(np.diff(tops, axis=0)) == 1).all()


def test_people_who_pass_each_other_at_a_distance_are_told_apart() -> None:
    frames = [frame(person(100 + 2 * t), person(200 - 2 * t, y=112)) for t in range(50)]
    clip = poses.clip_of(frames).reshape(50, 2, 4, 3)
    assert (np.abs(np.diff(clip[:, :, 0, 0], axis=0)) == 2).all()


def test_the_two_who_last_longest_are_kept() -> None:
    frames = [frame(*(person(100 * n, y=10) for n in range(1, 5) if t < 10 * n)) for t in range(40)]
    clip = poses.clip_of(frames).reshape(40, 2, 4, 3)
    assert clip[0, :, 0, 0].tolist() == [400, 300]
    assert clip[35, :, 0, 0].tolist() == [400, 0]


@pytest.mark.parametrize(("frames_of_other", "bodies"), [(19, 1), (20, 2)])
def test_a_second_body_is_there_for_half_of_the_time_of_the_first(frames_of_other: int, bodies: int) -> None:
    frames = [frame(person(100), *([person(300)] if t < frames_of_other else [])) for t in range(40)]
    assert poses.clip_of(frames).shape == (40, 4 * bodies, 3)


def test_what_flickers_is_nobody() -> None:
    frames = [frame(person(100)) if t else frame(person(900)) for t in range(40)]
    clip = poses.clip_of(frames)
    assert not clip[0].any()
    assert clip.shape == (40, 4, 3)


@pytest.mark.parametrize("bodies", [1, 2])
def test_as_many_bodies_are_laid_side_by_side_as_are_asked_for(bodies: int) -> None:
    frames = [frame(person(100), person(300)) for _ in range(3)]
    clip = poses.clip_of(frames, bodies)
    np.testing.assert_array_equal(clip[:, :4], upright(np.stack([person(100)] * 3)))
    assert clip.shape == (3, 4 * bodies, 3)
    assert poses.clip_of(frames[:1], 2)[0, 4:].any()


def test_nobody_is_a_clip_of_no_frames() -> None:
    assert poses.clip_of([frame(), frame(person(1, score=0.1))], 2).shape == (0, 8, 3)


def test_people_are_followed_by_their_places_where_these_are_given() -> None:
    """World coordinates put everybody at the origin: the image tells them apart."""
    here, there = person(1, y=2), person(1, y=2.5)
    frames = []
    for t in range(6):
        points, places = np.stack([here, there]), np.stack([SHAPE + 100, SHAPE + 500])
        order = [0, 1] if t % 2 else [1, 0]
        frames.append(Frame(points[order], places[order]))
    clip = poses.clip_of(frames).reshape(6, 2, 4, 3)
    assert (np.diff(clip, axis=0) == 0).all()
    assert set(clip[0, :, 0, 1]) == {-2, -2.5}


def test_of_a_crowd_the_surest_are_followed() -> None:
    """They last longest, too: whoever is not followed is not among those who are kept."""
    sure = [person(50, score=0.95), person(2000, score=0.94)]
    crowd = [person(100.0 + 50 * n, y=500, score=0.5) for n in range(3 * poses.MOST_PEOPLE)]
    clip = poses.clip_of([frame(*crowd, *sure)] * 3 + [frame(*sure)]).reshape(4, 2, 4, 3)
    assert set(clip[0, :, 0, 0]) == {50, 2000}
    assert clip.any(axis=(2, 3)).all()


def test_time_grows_with_the_frames_alone() -> None:
    """People who never match make the most tracks there can be: a frame of them takes milliseconds still."""
    rng = np.random.default_rng(0)
    frames = [Frame(np.concatenate([rng.uniform(0, 1e6, (30, 4, 3)), np.ones((30, 4, 1))], axis=2)) for _ in range(300)]
    since = time.process_time()
    poses.clip_of(frames)
    assert time.process_time() - since < 5
