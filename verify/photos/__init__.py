"""Eight photographs and sixteen prompts that conversions are verified on; README.md tells where they come from."""
