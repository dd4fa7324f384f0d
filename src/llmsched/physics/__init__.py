"""Step time from a GPU's data sheet and a model's shape: `step_model("physics:h100-sxm:...")`."""

from llmsched.physics.constants import Constants, Fitted, Place, fitted
from llmsched.physics.shapes import GpuSheet, ModelShape, gpu_named, model_named
from llmsched.physics.step import PhysicsBatch, PhysicsStep, step_model
from llmsched.physics.work import Deployment

__all__ = [
    "Constants",
    "Deployment",
    "Fitted",
    "GpuSheet",
    "ModelShape",
    "PhysicsBatch",
    "PhysicsStep",
    "Place",
    "fitted",
    "gpu_named",
    "model_named",
    "step_model",
]
