"""The processes of a pipeline, and the only folder that imports ray: router, controller, and the shard actors."""
