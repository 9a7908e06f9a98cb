"""Pictures, instructions and actions that a small model can learn, and forget.

from toy_world.batches import write_data
from toy_world.evaluate import evaluate_checkpoint
from toy_world.pretrain import pretrain
from toy_world.tasks import make_world

world = make_world(seed)
checkpoint = pretrain(folder, seed)                     # general tasks, under a minute on one core
write_data(root, "libero_spatial_no_noops", world.samples("downstream", 512))
write_data(root, "toy_general", world.samples("general", 256, "probe"))
evaluate_checkpoint(checkpoint, world)                  # {"general_accuracy": ..., "downstream_success": ...}
"""
