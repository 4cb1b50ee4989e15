"""Templates of lmms-eval's tasks; `llava_ego2exo.lmms.render` fills them in."""
