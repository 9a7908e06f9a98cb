from graft.pack import In, Pack, add_import, add_parameter, before, ensure, into_dict

HEAD = "starVLA/model/modules/action_model/LayerwiseFM_ActionHeader.py"
TRAIN = "starVLA/training/train_starvla.py"
GUIDE = "pred_velocity = pred_velocity if flow is None else flow.guide(actions, pred_velocity, t / num_steps)"

PACK = Pack(
    upstream="starVLA",
    name="sagr_flow",
    why="SA-GR Flow: a framework whose flow matching is guided by what its world predictor expected to see",
    edits=[
        In(
            HEAD,
            "LayerwiseFlowmatchingActionHead.forward",
            add_parameter("flow=None", why="what the method keeps of one pass; None is upstream"),
            before(
                "return loss",
                add="loss = loss if flow is None else flow.observe(loss, noisy_trajectory, t, pred_actions)",
                why="the clean estimate exists here only, with its graph; the loss goes through as it is",
            ),
        ),
        In(
            HEAD,
            "LayerwiseFlowmatchingActionHead.predict_action",
            add_parameter("flow=None", why="what the method keeps of one sampling; None is upstream"),
            before(
                "actions = actions + dt * pred_velocity",
                add=GUIDE,
                why="the drift is added to the velocity of each Euler step",
            ),
        ),
        In(
            TRAIN,
            "VLATrainer._train_step",
            add_import("from starVLA.sagr.trainer import step_metrics as sagr_metrics", why="the seam below"),
            into_dict(
                '{"action_dit_loss": $loss, ...}',
                add="**sagr_metrics(self, output_dict)",
                why="upstream logs one loss and drops the rest; other frameworks add nothing",
            ),
        ),
    ],
    overlays=["starVLA/sagr", "starVLA/model/framework/VLM4A/MapAnythingLlava3DPI.py", "examples/zz_next_frame"],
    ensures=[
        ensure(HEAD, "LayerwiseFlowmatchingActionHead.forward", "flow.observe(...)", why="the losses get the estimate"),
        ensure(HEAD, "LayerwiseFlowmatchingActionHead.predict_action", "flow.guide(...)", why="each step is guided"),
        ensure(TRAIN, "VLATrainer._train_step", "sagr_metrics(...)", why="metrics reach upstream's log"),
    ],
)
