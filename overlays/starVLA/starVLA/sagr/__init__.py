"""SA-GR Flow: semantic anchor, world predictor, residual guidance, replanning and feedback tokens for starVLA."""
