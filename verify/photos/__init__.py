"""Eight photographs and sixteen prompts to verify conversions on; README.md tells their origin."""
