"""Write ``version_N.onnx`` beside this module: a small policy with a record of this version, for later readers.

Run by ``make version`` after the version of the record was raised, and committed; never written again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_clanker import ExportOptions, OnnxCheckpointCallback
from sb3_clanker.policy_file.record import SCHEMA_VERSION
from tests.worlds import make_env, make_model

FOLDER = Path(__file__).parent


def main() -> None:
    """Export a policy with as many fields of its record filled as there can be."""
    path = FOLDER / f"version_{SCHEMA_VERSION}.onnx"
    if path.exists():
        raise SystemExit(f"{path} is there already: it is kept as it was written.")
    observation = spaces.Dict({"arm": spaces.Box(-1.0, 2.0, (2,), np.float32), "mode": spaces.Discrete(2)})
    spec = EnvSpec("robots/Arm-v3", entry_point="robots:Arm", kwargs={"reach": 0.5, "joints": 2})

    def make() -> VecNormalize:
        env: Any = make_env(observation, spaces.Box(-1.0, 1.0, (1,), np.float32))
        env.envs[0].unwrapped.spec = spec
        return VecNormalize(env, norm_obs_keys=["arm"])

    model = make_model(PPO, env=make(), policy="MultiInputPolicy", policy_kwargs={"net_arch": [4]})
    options = ExportOptions(
        further_outputs=("distribution",), action_units=["Nm"], control_period=0.02, metadata={"robot": "arm-3"}
    )
    with tempfile.TemporaryDirectory() as folder:
        callback = OnnxCheckpointCallback(folder, eval_env=make(), eval_freq=16, n_eval_episodes=2, options=options)
        model.learn(16, callback=callback)
        path.write_bytes((Path(folder) / "best_model.onnx").read_bytes())


if __name__ == "__main__":
    main()
