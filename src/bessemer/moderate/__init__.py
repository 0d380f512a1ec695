"""One model for every community's rules: policies, scores, thresholds, decisions. See docs/design/moderation.md."""
