def get_vlm_model(config):
    """The interface that the name of the checkpoint's folder asks for."""
    name = config.framework.qwenvl.base_vlm
    if "Qwen2.5-VL" in name:
        from .QWen2_5 import _QWen_VL_Interface

        return _QWen_VL_Interface(config)
    raise NotImplementedError(f"the stand-in has no vision-language model for {name}")
