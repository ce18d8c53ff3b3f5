"""Why methods gain what they gain: looks inside a model before and after it has adapted."""
