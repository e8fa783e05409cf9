// The physics of CartPole-v1, after gymnasium, whose equations and constants these are:
// https://github.com/Farama-Foundation/Gymnasium/blob/main/gymnasium/envs/classic_control/cartpole.py
// (MIT licence), itself after Barto, Sutton and Anderson, 1983.

const GRAVITY = 9.8;
const CART_MASS = 1.0;
const POLE_MASS = 0.1;
const TOTAL_MASS = CART_MASS + POLE_MASS;
const HALF_LENGTH = 0.5;
const FORCE = 10.0;

export const POLE_LENGTH = 2 * HALF_LENGTH; // metres
export const TAU = 0.02; // seconds from one action to the next
export const X_LIMIT = 2.4; // metres
export const ANGLE_LIMIT = (12 * 2 * Math.PI) / 360; // radians
export const EPISODE_STEPS = 500;

/** A start: cart position, cart velocity, pole angle, pole angular velocity, each within 0.05 of 0. */
export const start = () => Array.from({ length: 4 }, () => Math.random() * 0.1 - 0.05);

/** The state that follows when the cart is pushed to the right (action 1) or to the left (action 0). */
export function step([x, xDot, theta, thetaDot], action) {
  const force = action === 1 ? FORCE : -FORCE;
  const cos = Math.cos(theta);
  const sin = Math.sin(theta);
  const push = (force + POLE_MASS * HALF_LENGTH * thetaDot ** 2 * sin) / TOTAL_MASS;
  const thetaAcc =
    (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - (POLE_MASS * cos ** 2) / TOTAL_MASS));
  const xAcc = push - (POLE_MASS * HALF_LENGTH * thetaAcc * cos) / TOTAL_MASS;
  // Euler's method: positions move with the velocities from before the push.
  return [x + TAU * xDot, xDot + TAU * xAcc, theta + TAU * thetaDot, thetaDot + TAU * thetaAcc];
}

/** Whether the pole has fallen, or the cart has left its track. */
export const fallen = ([x, , theta]) => Math.abs(x) > X_LIMIT || Math.abs(theta) > ANGLE_LIMIT;
