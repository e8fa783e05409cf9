// The web page's physics: node cartpole_steps.mjs '{"state": [4 numbers], "actions": [0, 1, ...]}'
// Prints as JSON, for each action, the state that follows and whether the pole has fallen.

import { fallen, step } from "../../examples/web/cartpole.js";

let { state, actions } = JSON.parse(process.argv[2]);
const steps = actions.map((action) => {
  state = step(state, action);
  return [state, fallen(state)];
});
console.log(JSON.stringify(steps));
