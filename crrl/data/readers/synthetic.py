"""`synthetic`, the data set without download: procedural motion of 25 joints, seen by three simulated depth cameras.

A clip starts as joint angles over time, is turned into positions by forward kinematics over a body of fixed bone
lengths, and is then seen by a camera with its own position and noise. The body frame has x to the body's left, y up and
z forward, with the floor at y = 0. Angles are in degrees, shifts of the whole body in centimetres, positions in metres.
The actions come in pairs that share a posture and differ in motion (order or tempo), or share a motion and differ in
posture. The variation of people, moments and cameras is chosen so that methods without training, raw coordinates and a
random encoder, reach about the same accuracy as on public data sets.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt

from crrl.data.clips import Clips, IntArray, Split
from crrl.data.folds import validation_folds

Array = npt.NDArray[np.float64]
Pose = Mapping[str, Array | float]
Key = dict[str, float]
Motion = Callable[[Array], Pose]

_FPS = 30
_SUBJECTS = range(1, 13)
_REPETITIONS = range(1, 3)
_VIEWS = range(1, 4)

# The parent of each joint, in the joint order of Kinect v2 and NTU RGB+D.
_PARENTS = (-1, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11)
_ORDER = (1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19)
_TORSO, _LEGS, _FEET = [1, 2, 3, 20], [13, 14, 15, 17, 18, 19], [14, 15, 18, 19]
_ARMS, _SHOULDERS = [5, 6, 7, 9, 10, 11, 21, 22, 23, 24], [4, 8]
_LEFT_TO_RIGHT = {4: 8, 5: 9, 6: 10, 7: 11, 12: 16, 13: 17, 14: 18, 15: 19, 21: 23, 22: 24}

# The bone from the parent to each joint in metres, for a person of 1.70 m with arms down; the right side is mirrored.
_BONES = {
    1: (0.0, 0.29, 0.0), 20: (0.0, 0.22, 0.0), 2: (0.0, 0.07, 0.0), 3: (0.0, 0.15, 0.02),
    4: (0.17, -0.03, 0.0), 5: (0.02, -0.28, 0.0), 6: (0.0, -0.25, 0.0), 7: (0.0, -0.08, 0.0),
    21: (0.0, -0.08, 0.0), 22: (-0.02, -0.03, 0.05),
    12: (0.08, -0.03, 0.0), 13: (0.01, -0.41, 0.0), 14: (0.0, -0.39, 0.0), 15: (0.01, -0.07, 0.13),
}  # fmt: skip

# The rotations by each angle: (joint, axis, share). Lean tips the pelvis too, so the hips turn back to keep the legs.
_TRUNK_DOFS = {
    "lean": ((0, 0, 0.6), (1, 0, 0.4), (12, 0, -0.6), (16, 0, -0.6)),
    "tilt": ((1, 2, 1.0),),
    "turn": ((1, 1, 1.0),),
    "nod": ((2, 0, 1.0),),
}
# The left side; the right one turns the other way about y and z. Arms, hips and toes lift forward, arms twist out.
_SIDE_DOFS = {
    "arm": (4, 0, -1.0), "arm_out": (4, 2, 1.0), "arm_twist": (4, 1, 1.0), "elbow": (5, 0, -1.0), "hand": (6, 0, -1.0),
    "hip": (12, 0, -1.0), "hip_out": (12, 2, 1.0), "knee": (13, 0, 1.0), "ankle": (14, 0, -1.0),
}  # fmt: skip
_SHIFTS = ("forward", "lift")
_DOFS = (*_TRUNK_DOFS, *(side + name for name in _SIDE_DOFS for side in ("l_", "r_")), *_SHIFTS)


def _gait(phase: Array, stride: float, knee: float, swing: float, elbow: float, lean: float, bounce: float) -> Pose:
    pose: dict[str, Array | float] = {"lean": lean, "turn": 5 * np.sin(phase), "lift": bounce * np.cos(2 * phase)}
    for side, own in (("l_", phase), ("r_", phase + np.pi)):
        pose[side + "hip"] = stride * np.sin(own) + knee / 5
        pose[side + "knee"] = knee * np.maximum(np.cos(own), 0) + knee / 5
        pose[side + "arm"] = -swing * np.sin(own)
        pose[side + "elbow"] = elbow + 8 * np.sin(own)
    return pose


_walk = partial(_gait, stride=22, knee=32, swing=22, elbow=16, lean=2, bounce=0)
_jog = partial(_gait, stride=29, knee=62, swing=28, elbow=52, lean=7, bounce=4)


def _wave(phase: Array) -> Pose:
    swing = np.sin(phase)
    return {**_raise_hand(phase), "r_arm_out": 95 + 28 * swing, "r_elbow": 65 + 45 * swing}


def _raise_hand(phase: Array) -> Pose:
    return {"r_arm": 50.0, "r_arm_out": 95.0, "r_arm_twist": 60.0, "r_elbow": 65.0, "tilt": 3.0}


def _clap(phase: Array) -> Pose:
    apart = 0.5 - 0.5 * np.cos(phase)
    hands: Pose = {"arm": 40.0, "arm_twist": -48 + 56 * apart, "elbow": 80.0, "arm_out": 2 + 12 * apart}
    return {side + name: angle for side in ("l_", "r_") for name, angle in hands.items()}


def _rub_hands(phase: Array) -> Pose:
    pose: dict[str, Array | float] = {}
    for side, slide in (("l_", np.sin(phase)), ("r_", -np.sin(phase))):
        pose |= {side + "arm": 34 + 11 * slide, side + "elbow": 90 - 18 * slide}
        pose |= {side + "arm_twist": -44.0, side + "arm_out": 4.0}
    return pose


def _through(*keys: Key) -> Motion:
    """A motion through key poses, evenly spaced over progress 0 to 1, with a smooth transition between them."""

    def motion(progress: Array) -> Pose:
        place = progress * (len(keys) - 1)
        eased = np.floor(place) + _ease(place % 1)
        return {name: np.interp(eased, range(len(keys)), [key.get(name, 0) for key in keys]) for name in _DOFS}

    return motion


def _reversed(motion: Motion) -> Motion:
    return lambda progress: motion(1 - progress)


def _both(**angles: float) -> Key:
    return {side + name: angle for side in ("l_", "r_") for name, angle in angles.items()}


def _pose_rows(pose: Pose, frames: int) -> Array:
    """A pose as float64 [frames, D], a column for each of `_DOFS`; missing angles are 0."""
    rows = np.zeros((frames, len(_DOFS)))
    for name, value in pose.items():
        rows[:, _DOFS.index(name)] = value
    return rows


def _ease(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


_SIT = _through(
    {},
    {"lean": 32, "forward": -20, **_both(hip=45, knee=60, ankle=15, arm=25, elbow=20)},
    {"lean": 4, "forward": -42, **_both(hip=85, knee=85, arm=22, elbow=35)},
)
_JACKET = _through(
    {},
    {"r_arm": 45, "r_arm_out": 10, "r_elbow": 40, "l_arm": 50, "l_arm_out": -18, "l_elbow": 75, "turn": -8},
    {"r_arm": -30, "r_arm_out": 35, "r_elbow": 55, "l_arm": 65, "l_arm_out": -30, "l_elbow": 105, "turn": -16},
    {"r_arm": 40, "r_arm_out": 10, "r_elbow": 110, "l_arm": -25, "l_arm_out": 40, "l_elbow": 60, "turn": 16},
    {"r_arm": 35, "r_arm_out": 10, "r_elbow": 85, "l_arm": 20, "l_arm_out": 45, "l_elbow": 100, "turn": 4},
    {"nod": 14, **_both(arm=30, arm_twist=-42, elbow=85)},
    {},
)
_STOOP: Key = {"lean": 66, "nod": -10, "forward": -16, **_both(hip=58, knee=76, ankle=18)}
_PICK_ONE = _through(
    {},
    {**_STOOP, "turn": 10, "r_arm": 72, "r_elbow": 8, "l_arm": 5, "l_elbow": 65},
    {"lean": 14, "r_arm": 30, "r_elbow": 75, "l_elbow": 10},
    {},
)
_PICK_TWO = _through({}, {**_STOOP, **_both(arm=66, elbow=10)}, {"lean": 14, **_both(arm=28, elbow=75)}, {})
_KICK = _through(
    {},
    {"r_hip": -22, "r_knee": 60, "l_arm": 25, "r_arm": -15, "lean": 8},
    {"r_hip": 62, "r_knee": 8, "l_knee": 10, "l_arm": -18, "r_arm": 30, "lean": -6},
    {"r_hip": 22, "r_knee": 35},
    {},
)
_STEP_OVER = _through(
    {},
    {"r_hip": 68, "r_knee": 80, "l_knee": 8, "lean": 6, "forward": 8, **_both(arm_out=14)},
    {"r_hip": 26, "r_knee": 6, "l_hip": -18, "l_knee": 14, "forward": 30, **_both(arm_out=10)},
    {"r_hip": -8, "l_hip": 55, "l_knee": 85, "forward": 50, **_both(arm_out=12)},
    {"forward": 58},
)


@dataclass(frozen=True)
class _Action:
    """A motion over progress 0 to 1 or, with a rate, over the phase in radians of a repeated movement.

    Attributes:
        seconds: shortest and longest duration at tempo 1, without standing before and after.
        rate: lowest and highest repetitions a second at tempo 1.
    """

    motion: Motion
    seconds: tuple[float, float]
    rate: tuple[float, float] | None = None


_ACTIONS = {
    "walk": _Action(_walk, (1.2, 1.9), (0.75, 1.0)),
    "jog": _Action(_jog, (1.2, 1.9), (1.4, 1.7)),
    "sit_down": _Action(_SIT, (0.8, 1.5)),
    "stand_up": _Action(_reversed(_SIT), (0.8, 1.5)),
    "put_on_jacket": _Action(_JACKET, (1.2, 1.9)),
    "take_off_jacket": _Action(_reversed(_JACKET), (1.2, 1.9)),
    "wave": _Action(_wave, (1.2, 1.9), (1.3, 1.9)),
    "raise_hand": _Action(_raise_hand, (1.2, 1.9), (1.0, 1.0)),
    "pick_up_one_hand": _Action(_PICK_ONE, (1.0, 1.6)),
    "pick_up_two_hands": _Action(_PICK_TWO, (1.0, 1.6)),
    "kick": _Action(_KICK, (0.8, 1.3)),
    "step_over": _Action(_STEP_OVER, (0.9, 1.5)),
    "clap": _Action(_clap, (1.2, 1.9), (1.5, 2.2)),
    "rub_hands": _Action(_rub_hands, (1.2, 1.9), (1.5, 2.2)),
}


@dataclass(frozen=True)
class _Subject:
    """A body and a manner of moving.

    Attributes:
        bones: float64 [25, 3], from the parent to each joint, metres.
        tempo, amplitude: factors on the speed and on the angles of a motion.
        bias: float64 [D], a habitual posture added to every pose, degrees.
        left_handed: mirrors right-handed motions.
    """

    bones: Array
    tempo: float
    amplitude: float
    bias: Array
    left_handed: bool


@dataclass(frozen=True)
class _Camera:
    """Azimuth from the body's front and downward tilt in degrees, height and distance in metres, a factor on noise."""

    azimuth: float
    tilt: float
    height: float
    distance: float
    noise: float


_CAMERAS = {
    1: _Camera(azimuth=0, tilt=6, height=1.5, distance=3.0, noise=1.0),
    2: _Camera(azimuth=45, tilt=10, height=1.8, distance=3.3, noise=1.15),
    3: _Camera(azimuth=-45, tilt=-2, height=1.1, distance=2.8, noise=1.3),
}


def generate(seed: int = 0) -> Clips:
    """Make the data set: 14 actions, 12 subjects, 2 repetitions, 3 cameras, 1008 clips at 30 frames a second.

    Frames are float32 [ΣT, 25, 3] in metres in the camera's frame (x to the camera's left, y up, z away from it). The
    splits are "cross-subject" (the default), "cross-view", and within the training half of the former "validation" and
    the folds "validation-1" to "validation-4", of two subjects each.

    Args:
        seed: at least 0; the same seed gives the same clips.
    """
    people = {number: _subject(seed, number) for number in _SUBJECTS}
    clips, facts, names = [], [], []
    for (label, action), subject, repetition in product(enumerate(_ACTIONS), _SUBJECTS, _REPETITIONS):
        body = _performance(people[subject], _ACTIONS[action], _stream(seed, action, subject, repetition))
        for view in _VIEWS:
            noise = _stream(seed, action, subject, repetition, view)
            clips.append(_sense(_see(body, _CAMERAS[view]), _CAMERAS[view].noise, noise).astype(np.float32))
            facts.append((label, subject, view))
            names.append(f"{action}_s{subject:02}_r{repetition}_c{view}")
    labels, subjects, views = np.array(facts, np.int64).T
    classes = tuple(_ACTIONS)
    splits = _splits(labels, subjects, views)
    return Clips.from_arrays(
        clips, labels=labels, names=names, class_names=classes, subjects=subjects, views=views, splits=splits
    )


def _splits(labels: IntArray, subjects: IntArray, views: IntArray) -> dict[str, Split]:
    known = {
        "cross-subject": Split.of(subjects <= 8),
        "cross-view": Split.of(views != 1),
        "validation": Split.of(subjects <= 6, (subjects > 6) & (subjects <= 8)),
    }
    return known | validation_folds(known["cross-subject"].train, labels, subjects)


def _stream(seed: int, kind: str, *key: int) -> np.random.Generator:
    """A random generator for each thing made, so that a new action does not change the others."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(kind.encode()), *key]))


def _subject(seed: int, number: int) -> _Subject:
    rng = _stream(seed, "subject", number)
    bones = np.zeros((25, 3))
    for joint, bone in _BONES.items():
        bones[joint] = bone
        if joint in _LEFT_TO_RIGHT:
            bones[_LEFT_TO_RIGHT[joint]] = np.array(bone) * (-1, 1, 1)
    for part, spread in ((_TORSO, 0.06), (_LEGS, 0.06), (_ARMS, 0.06), (_SHOULDERS, 0.1)):
        bones[part] *= rng.normal(1, spread)
    return _Subject(
        bones=bones * rng.uniform(0.88, 1.12),
        tempo=rng.uniform(0.85, 1.2),
        amplitude=rng.uniform(0.7, 1.25),
        bias=_STANDING + rng.normal(0, _LOOSENESS),
        left_handed=bool(rng.random() < 0.25),
    )


# A relaxed posture, and by how many degrees people and moments differ from it: least in joints that bear weight.
_STANDING = _pose_rows({"lean": 2, **_both(arm=3, arm_out=7, elbow=12, hand=5, hip_out=3)}, 1)[0]
_LOOSE_ARMS = _both(arm=14, arm_out=8, arm_twist=18, elbow=18, hand=16)
_LOOSE_LEGS = _both(hip=4, hip_out=4, knee=4)
_LOOSENESS = _pose_rows({"lean": 6, "tilt": 4, "turn": 8, "nod": 12, **_LOOSE_ARMS, **_LOOSE_LEGS}, 1)[0]


def _performance(subject: _Subject, action: _Action, rng: np.random.Generator) -> Array:
    """One performance without sensor noise, float64 [T, 25, 3] in the room's frame: floor at 0, cameras around +z."""
    tempo = subject.tempo * rng.uniform(0.92, 1.08)
    active = _FPS * rng.uniform(*action.seconds) / tempo
    before, after = rng.uniform(2, 12, 2)
    frames = int(before + active + after)
    pose = _act(action, np.arange(frames) - before, active, tempo, rng)
    if subject.left_handed != (rng.random() < 0.1):
        pose = pose @ _MIRROR
    pose = pose * subject.amplitude * rng.uniform(0.8, 1.2) + subject.bias + _wander(frames, rng)
    return _place(_body(subject.bones, pose), rng)


def _act(action: _Action, time: Array, active: float, tempo: float, rng: np.random.Generator) -> Array:
    """The pose, float64 [T, D], at each time in frames from the action's start; it ends after `active` frames."""
    if action.rate is None:
        progress = np.clip(time / active, 0, 1)
        hurry = rng.uniform(-0.12, 0.12)
        return _pose_rows(action.motion(progress + hurry * np.sin(2 * np.pi * progress)), len(time))
    cycles = rng.random() + rng.uniform(*action.rate) * tempo * time / _FPS
    ramp = rng.uniform(6, 10)
    extent = _ease(time / ramp) * _ease((active - time) / ramp)
    return _pose_rows(action.motion(2 * np.pi * cycles), len(time)) * extent[:, None]


def _wander(frames: int, rng: np.random.Generator) -> Array:
    """The slowly changing deviation from the posture, float64 [T, D] in degrees."""
    time = np.arange(frames)[:, None] / _FPS
    speed, start = rng.uniform(0.2, 0.7, len(_DOFS)), rng.random(len(_DOFS))
    here, drift = rng.normal(0, 0.6, len(_DOFS)), rng.normal(0, 0.3, len(_DOFS))
    away: Array = here + drift * np.sin(2 * np.pi * (speed * time + start))
    away *= _LOOSENESS
    return away


def _mirror() -> Array:
    """The matrix [D, D] that mirrors a pose."""
    matrix = np.zeros((len(_DOFS), len(_DOFS)))
    for source, name in enumerate(_DOFS):
        other = {"l_": "r_", "r_": "l_"}.get(name[:2], name[:2]) + name[2:]
        matrix[source, _DOFS.index(other)] = -1 if name in ("tilt", "turn") else 1
    return matrix


def _turns() -> Array:
    """The share of each angle in the rotation of each joint, float64 [D, 25, 3]."""
    turns = np.zeros((len(_DOFS), 25, 3))
    for name, parts in _TRUNK_DOFS.items():
        for joint, axis, share in parts:
            turns[_DOFS.index(name), joint, axis] = share
    for name, (joint, axis, share) in _SIDE_DOFS.items():
        turns[_DOFS.index("l_" + name), joint, axis] = share
        turns[_DOFS.index("r_" + name), _LEFT_TO_RIGHT[joint], axis] = share if axis == 0 else -share
    return turns


_MIRROR, _TURNS = _mirror(), _turns()


def _body(bones: Array, pose: Array) -> Array:
    """Forward kinematics: pose [T, D] to joints, float64 [T, 25, 3] in metres, the lowest foot on the floor."""
    turns = np.deg2rad(np.tensordot(pose, _TURNS, 1))
    # Swing, then twist about the bone: unlike Euler angles, this has no singular pose that an arm can reach.
    world = _rotation(turns * (1, 0, 1)) @ _rotation(turns * (0, 1, 0))
    joints = np.zeros((len(pose), 25, 3))
    for joint in _ORDER:
        parent = _PARENTS[joint]
        joints[:, joint] = joints[:, parent] + world[:, parent] @ bones[joint]
        world[:, joint] = world[:, parent] @ world[:, joint]
    joints[:, :, 1] -= joints[:, _FEET, 1].min(1, keepdims=True)
    forward, lift = (pose[:, _DOFS.index(name), None] / 100 for name in _SHIFTS)
    joints[:, :, 1] += np.maximum(lift, 0)
    joints[:, :, 2] += forward
    return joints


def _rotation(vectors: Array) -> Array:
    """Rotation vectors [..., 3] in radians to matrices [..., 3, 3] (Rodrigues' formula)."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    # np.sinc(t) is sin(πt) / (πt), so both factors keep their limits where the angle is 0.
    sine, versine = np.sinc(angle / np.pi), 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    return np.asarray(np.eye(3) + sine * cross + versine * (cross @ cross))


def _place(joints: Array, rng: np.random.Generator) -> Array:
    """Put a body into the room, facing roughly the front camera, turning and drifting a little."""
    time = np.linspace(0, 1, len(joints))[:, None]
    facing = np.deg2rad(rng.normal(0, 40) + rng.normal(0, 5) * time)
    spot = rng.normal(0, 0.2, 2) + rng.normal(0, 0.04, 2) * time
    turned: Array = joints @ np.swapaxes(_rotation(facing * (0.0, 1.0, 0.0)), -1, -2)
    turned[:, :, [0, 2]] += spot[:, None]
    return turned


def _see(joints: Array, camera: _Camera) -> Array:
    """Joints from the room's frame to the camera's, both float64 [T, 25, 3] in metres."""
    azimuth, tilt = np.deg2rad(camera.azimuth), np.deg2rad(camera.tilt)
    place = np.array([camera.distance * np.sin(azimuth), camera.height, camera.distance * np.cos(azimuth)])
    rotation = _rotation(np.array([-tilt, 0, 0])) @ _rotation(np.array([0, np.pi - azimuth, 0]))
    return np.asarray((joints - place) @ rotation.T)


# The noise of each visible joint in metres: most at hands and feet, which are small and fast.
_SIGMA = np.full(25, 0.012)
_SIGMA[[6, 10, 14, 18]] = 0.018
_SIGMA[[7, 11, 15, 19]] = 0.028
_SIGMA[[21, 22, 23, 24]] = 0.04


def _sense(joints: Array, noise: float, rng: np.random.Generator) -> Array:
    """Sensor noise for joints [T, 25, 3] in the camera's frame: jitter, stronger if hidden, and occasional jumps."""
    hidden = _hidden(joints)
    jitter = rng.normal(size=(len(joints) + 1, *joints.shape[1:]))
    jitter = (jitter[1:] + 0.8 * jitter[:-1]) / 1.28  # trackers smooth, so neighbouring frames err alike
    jumps = rng.normal(0, 0.1, joints.shape) * (rng.random(hidden.shape) < 0.004 + 0.04 * hidden)[..., None]
    jumps[1:] += 0.6 * jumps[:-1]
    return joints + noise * (_SIGMA * (1 + 2.5 * hidden))[..., None] * jitter + jumps


def _hidden(joints: Array) -> Array:
    """How much the torso hides each joint, by being in front of it and near it: 0 to 1, float64 [T, 25]."""
    apart = joints - joints[:, [1]]
    behind = 1 / (1 + np.exp(-(apart[..., 2] - 0.08) / 0.03))
    return behind * np.exp(-((apart[..., 0] / 0.25) ** 2))
