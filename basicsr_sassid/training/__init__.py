"""How a training run goes: options, loop, stages, teachers, validation, checkpoints. Knows no method."""
