"""What a training or a sampling will take, found by running its code without memory or arithmetic."""
