"""What keeps data private: mechanisms, their noise, and the account of what they have given away."""
