"""What a sweep may say: trials, recipes, and the YAML that spells them."""
