// Clips that move: a canvas for each, one clock for all.
"use strict";

const STEPS = 127, ABSENT = -128, FRAMES_A_SECOND = 15;

/** The clips of `packed` (crrl/reporting/motion.py), their frames decoded once. */
function Clips(packed) {
  const text = atob(packed.frames);
  const frames = new Int8Array(text.length);
  for (let i = 0; i < text.length; i++) frames[i] = text.charCodeAt(i);
  const starts = [0];
  for (const length of packed.lengths) starts.push(starts[starts.length - 1] + length);
  const joints = packed.joints;

  /** Place of a joint's x in `frames`, at a frame counted over all clips. */
  const place = (frame, joint) => 3 * (frame * joints + joint);
  const seen = (frame, joint) => frames[place(frame, joint)] !== ABSENT;

  /** The joint's last frame in which it is seen, else its next; -1: never in this clip. */
  function nearest(clip, frame, joint) {
    for (let f = frame; f >= starts[clip]; f--) if (seen(f, joint)) return f;
    for (let f = frame; f < starts[clip + 1]; f++) if (seen(f, joint)) return f;
    return -1;
  }
  return { packed, frames, starts, place, seen, nearest };
}

/** Draw one frame of a clip on a canvas, turned about the vertical by `yaw`; missing joints are red crosses. */
function drawFrame(canvas, clips, clip, time, yaw, color) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d"), length = clips.packed.lengths[clip], joints = clips.packed.joints;
  const frame = clips.starts[clip] + Math.floor(time * FRAMES_A_SECOND) % length;
  const scale = 0.46 * Math.min(width, height) / STEPS, cos = Math.cos(yaw), sin = Math.sin(yaw);
  const at = (f, joint) => {
    const i = clips.place(f, joint), x = clips.frames[i], y = clips.frames[i + 1], z = clips.frames[i + 2];
    return [width / 2 + scale * (cos * x + sin * z), height / 2 - scale * y];
  };
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = Math.max(1.5, height / 90);
  pen.lineCap = "round";
  pen.beginPath();
  for (const [a, b] of clips.packed.bones) {
    if (clips.seen(frame, a) && clips.seen(frame, b)) {
      pen.moveTo(...at(frame, a));
      pen.lineTo(...at(frame, b));
    }
  }
  pen.stroke();
  const radius = Math.max(1.5, height / 100);
  for (let joint = 0; joint < joints; joint++) {
    const last = clips.nearest(clip, frame, joint);
    if (last < 0) continue;
    const [x, y] = at(last, joint);
    pen.beginPath();
    if (last === frame) {
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.fill();
    } else {
      pen.save();
      pen.strokeStyle = "#d00";
      pen.moveTo(x - 2 * radius, y - 2 * radius);
      pen.lineTo(x + 2 * radius, y + 2 * radius);
      pen.moveTo(x - 2 * radius, y + 2 * radius);
      pen.lineTo(x + 2 * radius, y - 2 * radius);
      pen.stroke();
      pen.restore();
    }
  }
}

/** What moves on the page: canvases with their clips. Those out of sight rest; dragging turns all of them. */
const stage = { players: new Map(), visible: new Set(), yaw: 0.35 };

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) stage.visible[entry.isIntersecting ? "add" : "delete"](entry.target);
});

/** Have a canvas show a clip from its start. */
function play(canvas, clips, clip, color) {
  if (!stage.players.has(canvas)) {
    sight.observe(canvas);
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) stage.yaw += event.movementX / 60;
    });
  }
  stage.players.set(canvas, { clips, clip, color, start: performance.now() });
}

function forget(canvas) {
  sight.unobserve(canvas);
  stage.players.delete(canvas);
  stage.visible.delete(canvas);
}

function tick(now) {
  for (const canvas of stage.visible) {
    const player = stage.players.get(canvas);
    const time = Math.max(0, now - player.start) / 1000;
    drawFrame(canvas, player.clips, player.clip, time, stage.yaw, player.color);
  }
  requestAnimationFrame(tick);
}
requestAnimationFrame(tick);

/** A new canvas that shows a clip, with lines of text below. */
function figure(clips, clip, color, ...lines) {
  const whole = document.createElement("figure"), canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  whole.append(canvas, caption);
  for (const line of lines) {
    const text = document.createElement("div");
    text.textContent = line;
    caption.append(text);
  }
  play(canvas, clips, clip, color);
  return whole;
}

/** Put figures in place of what an element holds. */
function show(element, figures) {
  for (const canvas of element.querySelectorAll("canvas")) forget(canvas);
  element.replaceChildren(...figures);
}
